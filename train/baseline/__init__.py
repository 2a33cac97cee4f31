"""`train baseline`: logistic regression on the features of a frozen backbone."""
