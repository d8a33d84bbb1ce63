"""From labelled images, in whatever format, to a prepared dataset: read, checked, split, versioned.

Nothing here trains or measures, and training imports none of it: what it reads is `engine.data`.
May import the vocabulary and `engine.data`; a model's opinion on labels comes in as plain boxes.

description, source, open   which dataset, its folder and reader, any kind opened as a prepared one
download, generated         an archive fetched once; datasets that are made, as the digits of
demo_digits                 the demo
formats/                    one file an annotation format: detected, read, written
convert                     one format to another
classes, groups             the classes of a project; images that must stay in one split
image_scan, workers         what an image's bytes say, asked of several processes at once
scan                        one pass over a dataset: all checks, the split of each image
findings                    every kind of mistake and its policies; the list of what was found
label_checks, outliers      boxes of one image; boxes and classes that stand out among all others
near_duplicates, crops      images that show nearly the same, mirrored too; parts of others
copies                      links between such images; which of val and test have a copy in train
label_errors                labels that a trained model contradicts
splits, stratify            train, val or test by content; classes spread evenly over them
prepare, source_digest      the prepared folder, whole or not at all; the digest of a source
version_diff                what changed between two versions
reports/                    findings and differences as text, values, a page with images
"""
