"""What the closed forms predict for the measured quantities: functions of plain parameters, with no constant fitted
to students.

The setting is a linear student x = A z on a Gaussian teacher N(0, Sigma) with the exact fake score, trained by plain
gradient descent. Symbols: lambda, an eigenvalue of Sigma; a or r, a singular value of A; k = lambda / (lambda +
sigma^2), kappa = a^2 / (a^2 + sigma^2), the two denoisers; w, the weighting; f, the drift of a singular value; n, the
noise that turns the gauge; Xi, the copying number; F_d, its scaling function; rho_g = 1 - E tr Q / d, the gauge
displacement.
"""
