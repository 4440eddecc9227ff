"""The method of the paper: horizons, gate, loss and the update that puts them together."""
