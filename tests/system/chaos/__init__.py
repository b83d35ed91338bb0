"""The storm: real workers and a real server under kills, pauses and cuts, and an account of every task afterwards.

`make chaos` runs it for some minutes, `tests/system/test_chaos.py` for some seconds.
"""
