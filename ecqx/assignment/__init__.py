"""Where centroids lie, what a cluster costs, and which cluster a weight goes to."""
