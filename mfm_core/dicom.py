"""A DICOM file as a picture: stored values, modality, window, polarity, colour.

Follows DICOM PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT) and C.7.6.16
(functional groups of enhanced multi-frame objects). Overlays are not drawn.
Nothing here crosses the hospital's boundary; reasons name no file and quote no element.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array

from mfm_core.raster import MAX_PIXELS, Raster, from_unit, own_range, pick_frame, unreadable

# pydicom's log lines and warnings quote element values, which can be a patient's name.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SEQUENTIAL_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_FIRST_GROUPS = (0x0002, 0x0008)

Values = NDArray[Any]


def is_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are DICOM's, with or without preamble.

    Without one, the file must start with an element of group 0002 or 0008 in either byte order.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 132:
        return False
    order: Literal["little", "big"] = "little" if head[0] else "big"
    group = int.from_bytes(head[0:2], order)
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return group in _FIRST_GROUPS and (explicit or int.from_bytes(head[4:8], order) < 1024)


def read_dicom(path: Path, frame: int | Literal["middle"]) -> Raster:
    """Return one frame as a viewer would first show it.

    Gray: rescale slope and intercept or modality LUT, then the first window or VOI LUT; without
    one (or when it leaves no contrast) the image's own range (`own_range`). Padding is black,
    MONOCHROME1 is inverted. Colour: palettes and YBR become RGB; deeper than 8 bits is divided
    by the largest storable value.

    Raises:
        DataError: no pixels, cut off, damaged, or a coding that cannot be read.
    """
    with path.open("rb") as file:
        dataset = pydicom.dcmread(file, force=True)
    _require_pixels(dataset)
    index = pick_frame(int(dataset.get("NumberOfFrames") or 1), frame)
    values = _stored_values(dataset, index)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return Raster(_palette_colours(values, dataset), _aspect(dataset, index))
    if values.ndim == 3:
        return Raster(_eight_bits(values, dataset), _aspect(dataset, index))
    return Raster(_gray(values, dataset, index), _aspect(dataset, index))


def _require_pixels(dataset: Dataset) -> None:
    """Raise unless the dataset describes a picture and holds its pixels."""
    if len(dataset) == 0:  # pydicom drops all it has read when a compressed frame ends early
        raise unreadable("is cut off: the file ends inside its pixels; copy it again")
    if not any(keyword in dataset for keyword in _PIXELS):
        if "Rows" in dataset or _is_image_class(dataset):
            raise unreadable("is cut off: a DICOM image whose pixels are not there")
        modality = str(dataset.get("Modality"))
        kind = modality if re.fullmatch("[A-Z]{2,16}", modality) else "unknown kind"
        raise unreadable(f"is a DICOM object without pixels ({kind}); leave it out")
    needed = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel")
    missing = [keyword for keyword in needed if dataset.get(keyword) is None]
    if missing:
        raise unreadable(f"is a damaged DICOM: {', '.join(missing)} missing in the header")
    if int(dataset.Rows) * int(dataset.Columns) > MAX_PIXELS:
        raise unreadable(f"is larger than {MAX_PIXELS} pixels; reduce it first")


def _is_image_class(dataset: Dataset) -> bool:
    """Return whether the file's header announces an image object."""
    header = getattr(dataset, "file_meta", None) or Dataset()
    announced = header.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID")
    return "Image Storage" in uid.UID(str(announced)).name


def _stored_values(dataset: Dataset, index: int) -> Values:
    """Return `[H, W]` or `[H, W, 3]` (RGB) as stored, decompressed."""
    _complete_file_meta(dataset)
    # The RLE plug-in panics (not an Exception) on damaged data; pydicom's own decoder raises.
    rle = dataset.file_meta.TransferSyntaxUID == uid.RLELossless
    try:
        return pixel_array(dataset, index=index, decoding_plugin="pydicom" if rle else "")
    except Exception as error:  # the plug-ins raise whatever they like
        if _repair_scan(dataset, index):
            return _decode_repaired(dataset)
        raise unreadable(_reason(dataset, error)) from None


def _complete_file_meta(dataset: Dataset) -> None:
    """Fill in the transfer syntax of a file without header, as the elements were read."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit


def _reason(dataset: Dataset, error: Exception) -> str:
    """Return why decoding failed, in words that quote nothing of the file."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed and "less than expected" in str(error):
        return "is cut off: fewer pixels than the DICOM header says; copy it again"
    unsupported = isinstance(error, NotImplementedError) and syntax.is_compressed
    if unsupported or not syntax.is_transfer_syntax:
        return f"has a DICOM coding that cannot be read here ({syntax.name}); decompress it first"
    return f"is damaged or cut off: its pixels cannot be decoded ({syntax.name})"


def _repair_scan(dataset: Dataset, index: int) -> bool:
    """Correct the JPEG scan header of one frame in place; return whether there was a fault.

    Some 12-bit encoders write 0 for the last coefficient of a sequential scan, where the
    standard (ISO 10918-1 table B.3) has 63; strict decoders refuse it.
    """
    if dataset.file_meta.TransferSyntaxUID not in _SEQUENTIAL_JPEG:
        return False
    frames = int(dataset.get("NumberOfFrames") or 1)
    data = bytearray(get_frame(dataset.PixelData, index, number_of_frames=frames))
    start = data.find(b"\xff\xda")
    last = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") - 2
    if start < 0 or last >= len(data) or data[last] == 63:
        return False
    data[last] = 63
    dataset.PixelData = encapsulate([bytes(data)])
    dataset.NumberOfFrames = 1
    return True


def _decode_repaired(dataset: Dataset) -> Values:
    try:
        return pixel_array(dataset, index=0)
    except Exception as error:  # as above
        raise unreadable(_reason(dataset, error)) from None


def _palette_colours(values: Values, dataset: Dataset) -> NDArray[np.uint8]:
    """Return `[H, W, 3] uint8`; 16-bit tables that only hold 8-bit numbers are taken as such."""
    colours = apply_color_lut(values, dataset)[..., :3]
    if colours.dtype == np.uint8 or colours.max() <= 255:
        return np.asarray(colours, dtype=np.uint8)
    return np.asarray(colours >> 8, dtype=np.uint8)


def _eight_bits(values: Values, dataset: Dataset) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    return from_unit(values.astype(np.float32) / (2 ** int(dataset.BitsStored) - 1))


def _gray(stored: Values, dataset: Dataset, index: int) -> NDArray[np.uint8]:
    """Return `[H, W] uint8` of stored gray values `[H, W]`."""
    padding = _padding(stored, dataset)
    values = _rescaled(stored, dataset, index)
    shown = _windowed(values, dataset, index)
    if shown is None or shown.min() == shown.max():
        shown = own_range(values, padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    if padding is not None:
        shown[padding] = 0
    return shown


def _padding(stored: Values, dataset: Dataset) -> NDArray[np.bool_] | None:
    """Return where stored values are padding and not image, or None."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    edges = sorted((int(value), int(value if limit is None else limit)))
    mask = (stored >= edges[0]) & (stored <= edges[1])
    return mask if mask.any() and not mask.all() else None


def _rescaled(stored: Values, dataset: Dataset, index: int) -> Values:
    """Return the values after the modality step, as float32 where a slope or intercept applies."""
    if "ModalityLUTSequence" in dataset:
        return apply_modality_lut(stored, dataset)
    source = _functional_group(dataset, "PixelValueTransformationSequence", index) or dataset
    slope = float(source.get("RescaleSlope") or 1.0)
    intercept = float(source.get("RescaleIntercept") or 0.0)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _windowed(values: Values, dataset: Dataset, index: int) -> NDArray[np.uint8] | None:
    """Return `[H, W] uint8` through the first VOI LUT or window, None without a usable one."""
    if "VOILUTSequence" in dataset:
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        whole = np.rint(values).astype(np.int32)
        return from_unit(apply_voi(whole, dataset).astype(np.float32) / (2**depth - 1))
    source = _functional_group(dataset, "FrameVOILUTSequence", index) or dataset
    center, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    if center is None or width is None or width < 1:
        return None
    x = values.astype(np.float32)
    function = str(source.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return from_unit(1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -60, 60))))
    if function == "LINEAR_EXACT":
        return from_unit((x - center) / width + 0.5)
    return from_unit((x - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5)


def _first(value: Any) -> float | None:
    """Return the first of one or several numbers, None for none."""
    if value is None or value == "":
        return None
    several = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return float(several[0]) if len(several) else None


def _functional_group(dataset: Dataset, keyword: str, index: int) -> Dataset | None:
    """Return one macro of a frame, from the per-frame or the shared functional groups."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*frames[index : index + 1], *shared[:1]]:
        items = group.get(keyword)
        if items:
            found: Dataset = items[0]
            return found
    return None


def _aspect(dataset: Dataset, index: int) -> float:
    """Return the height of a pixel over its width, 1 where the header has none or nonsense."""
    measures = _functional_group(dataset, "PixelMeasuresSequence", index) or dataset
    for source, keyword in (
        (measures, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
        (dataset, "PixelAspectRatio"),
    ):
        pair = source.get(keyword)
        if pair and len(pair) == 2 and float(pair[0]) > 0 and float(pair[1]) > 0:
            ratio = float(pair[0]) / float(pair[1])
            return ratio if 0.1 <= ratio <= 10 else 1.0
    return 1.0
