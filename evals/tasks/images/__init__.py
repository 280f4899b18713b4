"""A small world of pictures that is drawn offline: documents that hold images, and questions of what was seen."""
