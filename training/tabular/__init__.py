"""Commands on reward tables: stage0.py fills one, analyse_table.py, arms.py and choose.py read it."""
