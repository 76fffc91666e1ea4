"""Finding people in heat maps and boxes, and drawing them."""
