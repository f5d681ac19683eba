import { suiteOf } from './suite.ts'

suiteOf('newest')
