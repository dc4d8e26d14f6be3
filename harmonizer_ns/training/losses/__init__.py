# SPDX-License-Identifier: Apache-2.0
"""This package holds the losses of image enhancers, one family a file; `training.criterion` weighs them.

All are pure functions of images in [0, 1] (outputs may leave that range, gradients pass) and give the mean over the
images of a batch, with every image normalised by itself: the mean over processes is the loss of the joint batch. The
criterion sees to it that images have one shape.
"""
