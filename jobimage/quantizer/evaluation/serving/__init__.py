"""Speed and memory of a model in the software that serves it, each in a process of its own.

software   which software can serve what a pass wrote, and which is chosen
child      starts that software's Python on program.py, and ends it
program    what runs there: loads the model as anybody would, and takes the times
figures    from times to the values of metrics
"""
