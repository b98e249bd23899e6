"""Labels to files, in every form that viewers and planning systems want: one module a format, one door."""
