"""Devices and processes: the mesh, what lies where on it, programs that are kept."""
