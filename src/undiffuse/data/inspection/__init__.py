"""Inspection: what a data set holds, what is wrong with it, and which of its examples are copies of each other.  Nothing is changed."""
