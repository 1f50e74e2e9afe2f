def run(server, args, tally):
    pass
