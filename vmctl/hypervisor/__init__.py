"""libvirt, typed: the only layer that imports it.

Everything here takes and returns plain data, and raises from vmctl's own error tree.
"""
