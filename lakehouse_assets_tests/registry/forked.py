"""Imported by the process that others are forked from: what every one of them would read again."""

from lakehouse_assets_tests.migrations import read_all

read_all()
