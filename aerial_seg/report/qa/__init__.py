"""What `tile` leaves for the eyes: contact sheets, a map of the splits, a table of the classes, every warning."""
