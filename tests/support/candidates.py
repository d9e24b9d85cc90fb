"""A model in a folder, to be scored."""

import transformers


class FolderCandidate:
    """Stands in for a merge: its folder is there before, and stays.

    `asked` is how often somebody wanted the folder, `loaded` the model in memory.
    """

    def __init__(self, path, tokenizer=True):
        self.path, self.tokenizer = path, tokenizer
        self.asked = self.loaded = 0

    def folder(self):
        self.asked += 1
        return self.path

    def load(self):
        self.loaded += 1
        model = transformers.AutoModelForCausalLM.from_pretrained(self.path)
        if not self.tokenizer:
            return model, None
        return model, transformers.AutoTokenizer.from_pretrained(self.path)

    def close(self):
        pass

    def __fspath__(self):
        return str(self.folder())
