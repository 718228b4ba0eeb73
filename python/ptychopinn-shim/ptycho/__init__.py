"""The interface that ptychodus has to PtychoPINN, answered by the program ptycho-gpu.

This is not PtychoPINN: see ``python/README.md`` of ptycho-gpu. Modules of this package are imported
one by one, and ``ptycho.config.config`` needs the standard library alone.
"""
