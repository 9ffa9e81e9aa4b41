"""The pixels of a grey or colour JPEG, by libjpeg-turbo without Pillow's detours.

Both decode with the same library and to the same pixels. Pillow, though, keeps four bytes of memory for three of
colour, and hands them out by copying them twice: for a photo of 12 megapixels that is more than half of its time.
Pillow still reads the header (size, EXIF, profile, frames) and has the last word on every file that is not in order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ImageFile


def read_pixels(image: ImageFile.ImageFile, data: bytes) -> npt.NDArray[np.uint8] | None:
    """Pixels of a JPEG that Pillow has opened and not loaded, as they are stored.

    Args:
        image: For its mode and size.
        data: The whole file.

    Returns:
        (H, W, 3) uint8 RGB, grey in all three channels; None for other modes (CMYK), for grey with a profile (which is
        for one channel), and wherever libjpeg has anything to remark: whether such a file is cut, broken or only odd is
        for Pillow's decoder to say.
    """
    if image.mode != "RGB" and (image.mode != "L" or image.info.get("icc_profile")):
        return None
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None
    return pixels if pixels.shape[1::-1] == image.size else None
