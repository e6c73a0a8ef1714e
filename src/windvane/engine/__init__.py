"""The only place where order and await meet: an exchange goes through its ten steps here."""
