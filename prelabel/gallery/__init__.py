"""`prelabel preview`: a gallery of a finished run that opens from disk, without a server or a network.

`survey` reads the run once and chooses a sample, `renditions` scales the images, `content` makes the data and the HTML
of the page, and `preview` writes everything. `template/model.js` decides which images match the filters of the page.
"""
