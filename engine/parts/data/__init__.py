"""From labelled images to batches, in the order in which data passes through:

description, download, generated, digits    which dataset, and how to come by it
formats/                                    readers: Pascal VOC, COCO JSON, YOLO text
intake, checks, splits, fingerprint         decode and mend, findings and policies, train/val/test, what a source holds
prepare, prepared                           the prepared dataset: made, opened
cache, transforms, dataset, loader          decoded images, augmentation, samples, batches
"""
