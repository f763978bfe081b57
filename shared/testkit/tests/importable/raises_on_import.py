raise RuntimeError("this plugin needs a licence")
