"""What is computed: networks, their layouts, kernels and weights; knows no run and no task."""
