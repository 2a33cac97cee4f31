"""Packages: a published version as one zip file, which unpacks into a Triton model repository."""

from builder.packages.install import InstalledPackage, install_package
from builder.packages.package import Package
from builder.packages.writing import write_package

__all__ = ["InstalledPackage", "Package", "install_package", "write_package"]
