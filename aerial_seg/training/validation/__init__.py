"""How good a network is on ground it does not learn from: counted, calibrated, judged, and compared."""
