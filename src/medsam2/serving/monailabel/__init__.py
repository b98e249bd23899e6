"""The protocol of MONAI Label, as its plug-ins for 3D Slicer and OHIF and its Python client speak it."""
