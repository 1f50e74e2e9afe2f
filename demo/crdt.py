"""A text that many can edit without asking each other: a replicated growable array.

Each character has an id (a counter and a device's name, so no two are alike) and names the character that it was
typed behind. That makes a tree; the text is its walk, later siblings first. A deleted character stays, unseen, for
others may have typed behind it. So the text depends on nothing but the set of operations: whoever has the same ones
has the same text, in whatever order, and however often, they came.
"""

START = (0, "")


class Text:
    def __init__(self, device):
        self.device, self.counter = device, 0
        self.characters = {}            # id → (the id that it follows, the character)
        self.followers = {}             # id → ids of those typed behind it
        self.deleted = set()

    def apply(self, operation):
        kind, counter, device, *rest = operation
        name = (counter, device)
        if kind == "delete":
            self.deleted.add(name)
        elif name not in self.characters:
            (behind_counter, behind_device), character = rest
            behind = (behind_counter, behind_device)
            self.characters[name] = (behind, character)
            self.followers.setdefault(behind, []).append(name)
            self.counter = max(self.counter, counter)

    def visible(self):
        """The ids of what is seen, in order."""
        todo, seen = [START], []
        while todo:
            name = todo.pop()
            if name != START and name not in self.deleted:
                seen.append(name)
            todo += sorted(self.followers.get(name, ()))
        return seen

    def __str__(self):
        return "".join(self.characters[name][1] for name in self.visible())

    # ---- editing: each returns the operations to be sent ----

    def insert(self, place, text):
        visible = self.visible()
        behind, made = visible[place - 1] if place > 0 else START, []
        for character in text:
            self.counter += 1
            made.append(["insert", self.counter, self.device, list(behind), character])
            self.apply(made[-1])
            behind = (self.counter, self.device)
        return made

    def delete(self, text):
        place = str(self).index(text)
        made = [["delete", *name] for name in self.visible()[place:place + len(text)]]
        for operation in made:
            self.apply(operation)
        return made

    def write_behind(self, behind, text):
        return self.insert(str(self).index(behind) + len(behind) if behind else 0, text)
