"""FileBrowser: the folders of the data directory that hold models and pictures, over HTTP and on the page."""
