"""From files to images.

imageset.py       what a data set is
part.py           a share of a split, the same for all
identity.py       which data it is, by content
decode.py         one image file to pixels
image_files.py    the images of a ZIP or folder
labels.py         their label table: names, not bytes
levels.py         whether pixels use the range that they have
archive.py        writing a ZIP that a killed run can continue
pixel_cache.py    decoded once for all trials
stacked.py        three grey images as one of three channels
idx_files.py      MNIST's format
download.py       a published file, whole or not at all
cifar_batches.py  CIFAR's pickles, nothing executed
batches.py        the endless sequence of real images, in batches
prepare.py        ZIPs from what one downloads
"""
