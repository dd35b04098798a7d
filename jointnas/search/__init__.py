"""Algorithm 1 as ask-and-tell, and the engines of its second stage."""
