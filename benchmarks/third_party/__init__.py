"""Generators, guides and judges as other projects write them; nothing here imports unflow.

Each module has one network with its own layout, range and conventions, and a ``train`` function.
"""
