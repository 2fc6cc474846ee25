"""What is written of a map: segments of finished rows, cloud-optimised GeoTIFFs, styles, STAC Items."""
