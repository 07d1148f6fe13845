"""Files into texts, pages, images and frames."""
