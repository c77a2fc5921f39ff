"""Numerical helpers: least squares, bisection, Poisson quantiles, discrete length distributions.

Every function is a formula over plain numbers and knows no word of the product. All rooms of core,
the controller and the profiler use them.
"""
