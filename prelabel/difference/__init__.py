"""What changed between two finished runs over the same images: no detector, no images, no GPU.

    runs ──> classes and images that are the same (fusion) ─┐
         ──> rows of an image in both runs ──> selection ──> matching (review) ──> changes ──> counts ──> report

options     the options of `prelabel diff`
inputs      what holds for the two runs as a whole: classes, thresholds, settings that differ
changes     what became of each detection of an image
tally       counts of many images, and those that changed most
job         the whole call: from two runs to a `Difference`
tables      tables for the terminal and the page
files       `diff.json`, and writing the report
page        `diff.html`, with the images that changed most side by side
"""
