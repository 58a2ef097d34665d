"""What a dashboard is made of.

In the order of a run: links.py says where to look; snapshots.py takes copies, worker.py hands them to a thread and
says what may be done; board.py decides what is written when: curves.py (traces, acceptance), looks.py (convergence),
texts.py, layout.py (which curves stand together), figures.py (of what; drawing/ draws them), closing.py (at the end:
how well the model predicts). records.py and checksum.py write TensorBoard's files, earlier.py reads those of an earlier
run.
"""
