import { suiteOf } from './suite.ts'

suiteOf('oldest')
