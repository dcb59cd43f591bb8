"""Tasks of lm-eval (EleutherAI's evaluation harness), scored on models of which one layer at a time exists.

    definitions   task files from outside: what of lm-eval's YAML is taken, and what is refused
    harness       lm-eval itself, in a child process with limits: what it asks of a model, and what it makes of answers
    language_model  lm-eval's LM interface: text to tokens as its own hf model does it, and windows of long texts
    scoring       all requests of all tasks walk the layers together

The child asks first and is given the answers later: templates, regular expressions and the tokenizer, all of which come
from outside, never run in the process of the run.
"""
