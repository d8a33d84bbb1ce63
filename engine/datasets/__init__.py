"""From labelled images to batches, in the order in which data passes through:

description, download, generated, digits    which dataset, and how to come by it
formats/                                    readers: Pascal VOC, COCO JSON, YOLO text
classes, groups, source                     the project's classes, what belongs together, a dataset
found and opened images, intake, checks                      decode, mend, findings and policies
looks, workers                              what an image's bytes say, asked of many processes at
once duplicates, outliers, label_errors          near duplicates, unusual boxes, what a model says
against labels splits, stratify, fingerprint               train/val/test, classes over them, what a
source holds examine, prepare, prepared                  all checks in one pass; the prepared
dataset: made, opened
compare                                     what changed between two versions
page, check_report, diff_report             findings and differences as text, values, a page with
pictures cache, transforms, dataset, loader          decoded images, augmentation, samples, batches
"""
