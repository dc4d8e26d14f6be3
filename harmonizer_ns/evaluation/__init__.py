# SPDX-License-Identifier: Apache-2.0
"""What an enhancer gains, measured on photos that it has not seen: their renders repaired, or flown past in a video.

May import enhancers, captures, splats and the small modules. The protocol reads in `protocol.compare`.
"""
