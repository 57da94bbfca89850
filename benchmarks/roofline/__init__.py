"""The roofline model: lower bounds on the time of a case, from the peak rates of a machine."""
