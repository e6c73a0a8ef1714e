"""Measure what Windvane costs, next to a plain reverse proxy and to peers, in one run.

How it measures, in four laws:

* The proxy under test owns core 0; the upstream, the load and this driver share core 1. Nothing
  leaves 127.0.0.1, every run is bounded in time, every child is stopped by the pid it got here.
* The figure to trust is **CPU time per request**: on-CPU nanoseconds of the whole process tree
  divided by completed requests. Requests per second and p99 move with the machine's neighbours;
  CPU per request does not, and the plain proxy measured beside it says how quiet the machine was.
* Contenders take turns within a cell, so a noisy second hurts all of them alike. A cell is the
  median of several short runs and shows (max - min) / median.
* Wrong answers are not fast answers. Each request has a body of its own, so that no cache can
  answer it; the upstream counts its calls; a row with more than 0.1 % of errors, or whose answers
  did not come from the upstream, is refused instead of printed.

Run it from the repository's root: ``python -m benchmarks --help``.
"""
