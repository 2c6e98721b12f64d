"""Files of other libraries, read and written with NumPy alone.

A reader gives a `content.Prompt` or `content.Inserts`; a writer takes one.
Nothing that a file says is executed.
"""
