"""Merging the detections that several views of one image, or several runs, gave; with NumPy only.

neighbors     which boxes can meet, by a grid
boxes         weighted boxes fusion, suppression and merging of boxes
masks         votes and unions of masks, on runs
keypoints     means of points, or the surest ones
detections    all of it for `Detections`
"""
