"""Local training: learners, clipping, noise, sampling."""
