"""Masks, with NumPy only. Between the detector and the exports, a mask is COCO's compressed run-length encoding (RLE).

    rle, rle_many         the encoding, of one mask and of a column of masks
    paste, paste_edges    scores of a model -> RLE
    sides                 RLE -> the vertical sides of its contour, and RLE in row order
    polygons, bridges     RLE -> polygons; parts and holes joined into one contour
    brush                 RLE -> Label Studio's brush masks and back
    areas                 the overlap of two annotations of any shape

To convert masks to another shape, add a module that starts from `rle.spans` or `sides.sides_of`.
"""
