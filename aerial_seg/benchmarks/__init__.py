"""The papers' benchmarks: dataset layouts, evaluation protocols, submissions, published numbers."""
