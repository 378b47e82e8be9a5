"""Turn images upright by the orientation in their EXIF data."""

from __future__ import annotations

from PIL import Image

_ORIENTATION = 0x0112  # the EXIF tag for the orientation of the camera
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation (EXIF 2.3, 4.6.4.A); Pillow has already applied that of a TIFF."""
    if "exif" not in image.info and not (image.format == "PNG" and "Raw profile type exif" in image.info):
        return image  # the common case: parsing would cost more than decoding a small image
    try:
        has_xmp = "xmp" in image.info or "XML:com.adobe.xmp" in image.info
        exif = _exif_alone(image) if has_xmp else image.getexif()  # which looks for an orientation in XMP data, too
        turn = _TRANSPOSE.get(exif.get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data; viewers show such an image as it is stored
        turn = None
    return image if turn is None else image.transpose(turn)


def _exif_alone(image: Image.Image) -> Image.Exif:
    given = image.info.get("exif")
    text = "" if given is not None else image.info["Raw profile type exif"]
    exif = Image.Exif()
    exif.load(bytes.fromhex("".join(text.split("\n")[3:])) if given is None else given)
    return exif
