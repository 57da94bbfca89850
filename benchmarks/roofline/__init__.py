"""The roofline model: lower bounds on the time of a case, from the measured rates of a machine."""
