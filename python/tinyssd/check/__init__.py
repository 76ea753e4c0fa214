"""What is wrong with a data set, before it is trained on: a snapshot, checks that yield findings, reports of them."""
