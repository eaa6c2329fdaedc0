"""GLUE-layout files, or any TSV or JSON lines, to fairseq binary data.

    tasks         what each known task's files look like
    generic       the same for the user's own files
    readers       files -> examples, every rejected line named
    tokenization  sentencepiece, GPT-2 BPE, Hugging Face tokenizers
    subset        nested subsets of the training examples
    prepare       all of it -> a folder for fairseq's `sentence_prediction`
    docstrings    the demo's data, from the documentation of installed packages

Nothing here imports fairseq or PyTorch before `prepare.prepare` is called.
"""
