"""The report of a store: one HTML file with its photos, figures and doubtful labels, for a person to open."""
